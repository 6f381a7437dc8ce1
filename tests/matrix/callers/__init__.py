"""Those who call: an application on an event loop, and the clients of the engines."""
