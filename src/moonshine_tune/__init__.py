"""moonshine-tune: adapt Moonshine speech recognition to a domain, on your own machine."""

__version__ = "0.1.0"
