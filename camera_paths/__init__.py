"""Novel-view camera paths: cones, orbits, spirals, and the formats they are exchanged in."""
