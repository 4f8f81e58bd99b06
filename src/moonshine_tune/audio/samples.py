"""What a clip is everywhere: mono float32 samples at 16 kHz, as Moonshine takes them."""

import numpy as np
import numpy.typing as npt

SAMPLE_RATE_HZ = 16_000
Samples = npt.NDArray[np.float32]
