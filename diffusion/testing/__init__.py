"""The contracts of parts, as functions for tests: each raises an AssertionError that says in a sentence what is wrong.

A repository with parts of its own tests all of them by its config folder:

    @pytest.mark.parametrize(("group", "name"), options("conf"))
    def test_a_part_keeps_its_contract(group, name, tmp_path):
        check_option(group, name, ["conf"], tmp_path)
"""

from diffusion.testing.conditioner import check_conditioner
from diffusion.testing.data import check_data
from diffusion.testing.guidance import check_guidance, check_operator
from diffusion.testing.levels import check_parameterization, check_schedule, check_spacing, check_weighting
from diffusion.testing.network import check_network
from diffusion.testing.option import check_option, check_training, options
from diffusion.testing.sampler import check_order, check_sampler

__all__ = [
    "check_conditioner",
    "check_data",
    "check_guidance",
    "check_network",
    "check_operator",
    "check_option",
    "check_order",
    "check_parameterization",
    "check_sampler",
    "check_schedule",
    "check_spacing",
    "check_training",
    "check_weighting",
    "options",
]
