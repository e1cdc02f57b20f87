"""What is done to a store as such: listing, checking, merging, packing, exporting; and what there is to extract."""
