"""Reading what users have: files of any form and packing, as examples that know their place."""
