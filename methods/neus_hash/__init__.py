"""neus-hash: a signed distance function on a hash grid, rendered as NeuS renders it; gives meshes."""
