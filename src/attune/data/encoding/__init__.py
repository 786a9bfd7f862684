"""From conversations to tokens: templates, masks, and the proof that what is learned is the answer."""
