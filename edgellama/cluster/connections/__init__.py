"""How a driver and a stage on another machine talk: messages over a socket, as bytes."""
