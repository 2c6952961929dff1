"""Contract tests of parts, this project's and anybody's: plain functions that say in a sentence what is wrong.

from diffusion.testing import check_option, options

@pytest.mark.parametrize(("group", "name"), options("conf"))
def test_a_part_keeps_its_contract(group, name, tmp_path):
    check_option(group, name, ["conf"], tmp_path)
"""

from diffusion.testing.option import check_option, options
from diffusion.testing.parts import (
    check_conditioner,
    check_data,
    check_guidance,
    check_network,
    check_parameterization,
    check_schedule,
    check_spacing,
    check_weighting,
)
from diffusion.testing.sampler import check_order, check_sampler

__all__ = [
    "check_conditioner",
    "check_data",
    "check_guidance",
    "check_network",
    "check_option",
    "check_order",
    "check_parameterization",
    "check_sampler",
    "check_schedule",
    "check_spacing",
    "check_weighting",
    "options",
]
