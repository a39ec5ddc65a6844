"""hash-nerf: a multiresolution hash grid marched through an occupancy grid; the fast default, also on a CPU."""
