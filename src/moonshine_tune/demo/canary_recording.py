"""The demonstration's canary: what is read aloud in `two_cities.wav`, and where.

The recording (44.4 s, one reader, 48 kHz) comes with the package moonshine-voice. Its text is the
opening sentence of A Tale of Two Cities by Charles Dickens (1859, public domain), read in full.

The cuts are those that `split_at_pauses` makes of the recording, each in the middle of a pause of
more than half a second. The last two seconds are silence and left out. The spans are written down
so that the reference never moves when the cutting does. Shorter pieces were tried and are a worse
canary: Moonshine tiny then flips whole words when a cut moves by 20 ms (6 to 11 errors in 10
pieces, 3 to 8 in these 5).
"""

# (start in seconds, end in seconds, text)
TWO_CITIES_SPANS: tuple[tuple[float, float, str], ...] = (
    (
        0.00,
        8.50,
        "It was the best of times, it was the worst of times, it was the age of wisdom, it was the "
        "age of foolishness,",
    ),
    (
        8.50,
        17.12,
        "it was the epoch of belief, it was the epoch of incredulity, it was the season of Light, "
        "it was the season of Darkness,",
    ),
    (
        17.12,
        24.32,
        "it was the spring of hope, it was the winter of despair, we had everything before us, we "
        "had nothing before us,",
    ),
    (
        24.32,
        32.50,
        "we were all going direct to Heaven, we were all going direct the other way—in short, the "
        "period was so far like the present period,",
    ),
    (
        32.50,
        42.26,
        "that some of its noisiest authorities insisted on its being received, for good or for "
        "evil, in the superlative degree of comparison only.",
    ),
)
