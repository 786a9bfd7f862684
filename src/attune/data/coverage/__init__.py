"""What a data set covers, which languages it speaks, and whether it is like what the model will be asked."""
