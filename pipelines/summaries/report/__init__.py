"""One offline page of all that a store holds, for who ran the batch, who studies the numbers, who wants an answer."""
