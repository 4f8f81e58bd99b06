"""The demonstration's canary: what is read aloud in `two_cities.wav`, and where.

The recording (44.4 s, one reader, 48 kHz) comes with the package moonshine-voice. Its text is the
opening sentence of A Tale of Two Cities by Charles Dickens (1859, public domain), read in full and
without a slip.

The cuts are those that `split_at_pauses` makes of the recording with `max_s=6`; each lies in the
middle of a pause of at least 0.4 s. The last two seconds are silence and left out. The spans are
written down so that the reference never moves when the cutting does.
"""

# (start in seconds, end in seconds, text)
TWO_CITIES_SPANS: tuple[tuple[float, float, str], ...] = (
    (0.00, 4.78, "It was the best of times, it was the worst of times,"),
    (4.78, 8.50, "it was the age of wisdom, it was the age of foolishness,"),
    (8.50, 13.12, "it was the epoch of belief, it was the epoch of incredulity,"),
    (13.12, 17.12, "it was the season of Light, it was the season of Darkness,"),
    (17.12, 20.85, "it was the spring of hope, it was the winter of despair,"),
    (20.85, 24.32, "we had everything before us, we had nothing before us,"),
    (24.32, 28.68, "we were all going direct to Heaven, we were all going direct the other way—"),
    (28.68, 32.50, "in short, the period was so far like the present period,"),
    (32.50, 36.76, "that some of its noisiest authorities insisted on its being received,"),
    (36.76, 42.26, "for good or for evil, in the superlative degree of comparison only."),
)
