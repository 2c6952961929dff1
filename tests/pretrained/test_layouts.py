"""What one layout makes of another, undone: ours -> theirs -> ours, and theirs -> ours -> theirs."""

import pytest
import torch

from diffusion.pretrained.nvidia import interleaved, one_hot
from diffusion.pretrained.transforms import JOINED, JOINED_TRANSPOSED, Transform, first_group, negated

CASES = {
    "interleaved matrix": (interleaved(2), (24, 8)),
    "interleaved bias": (interleaved(2), (24,)),
    "one-hot": (one_hot(3.0), (10, 4)),
    "joined": (JOINED, (24, 8)),
    "joined, transposed": (JOINED_TRANSPOSED, (24, 8)),
    "negated": (negated(), (4, 4)),
    "first group": (first_group(4, 2), (16, 8)),
    "first group, negated": (negated(first_group(4, 2)), (16,)),
}


@pytest.mark.parametrize(("how", "shape"), CASES.values(), ids=CASES)
def test_a_layout_is_undone(how: Transform, shape: tuple[int, ...]) -> None:
    ours = torch.randn(shape, dtype=torch.float64)
    theirs = how.write(ours)
    torch.testing.assert_close(how.read(*theirs), ours)
    torch.testing.assert_close(how.write(how.read(*theirs)), theirs)
