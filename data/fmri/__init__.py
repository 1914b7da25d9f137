"""fMRI responses to images: trials, betas, stimuli, and what is done to them before a network sees them."""
