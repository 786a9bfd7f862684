"""From data files to tensors: reading, understanding, rendering, masking, proving and laying out rows."""
