"""On-disk layouts of fMRI responses to images."""
