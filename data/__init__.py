"""From a capture to a dataset: frames, subsets, poses, scene frame, masks, transforms.json."""

# Where pycolmap is loaded before Python's own zlib (or NumPy, which loads it), OpenCV's writing of a PNG frees memory
# that another zlib had allocated, and the process is aborted.
import zlib  # noqa: F401
