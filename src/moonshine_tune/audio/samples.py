"""The form of audio everywhere in this package: mono float32 samples at 16 kHz."""

import numpy as np
import numpy.typing as npt

SAMPLE_RATE_HZ = 16_000
Samples = npt.NDArray[np.float32]
