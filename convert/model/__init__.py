"""What a Llama's file says of it: names, shapes, sizes and constants, from any kind of source."""
