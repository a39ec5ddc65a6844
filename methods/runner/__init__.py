"""Train and render any nerfstudio-registered method, headless."""
