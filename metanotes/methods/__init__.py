"""What phi is: a room for each answer, and a page of code for each method."""
