"""From a capture to a dataset: frames, subsets, poses, scene frame, masks, transforms.json."""
