"""Radiance-field methods and the headless runner that trains and renders them."""
