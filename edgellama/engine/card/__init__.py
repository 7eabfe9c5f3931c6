"""Keys, values and attention of some sequences on a graphics card."""
