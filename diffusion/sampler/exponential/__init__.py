"""The exponential integrators: the DPM-Solver family, DEIS and UniPC."""

from diffusion.sampler.exponential.deis import DEISSampler
from diffusion.sampler.exponential.dpm_solver_2 import DPMSolver2Sampler
from diffusion.sampler.exponential.dpm_solver_3 import DPMSolver3Sampler
from diffusion.sampler.exponential.dpm_solver_fast import DPMSolverFastSampler
from diffusion.sampler.exponential.dpm_solver_m import DPMSolverMSampler
from diffusion.sampler.exponential.dpm_solver_pp_2m import DPMSolverPP2MSampler
from diffusion.sampler.exponential.dpm_solver_pp_2m_sde import DPMSolverPP2MSDESampler
from diffusion.sampler.exponential.dpm_solver_pp_2s import DPMSolverPP2SSampler
from diffusion.sampler.exponential.dpm_solver_pp_3m import DPMSolverPP3MSampler
from diffusion.sampler.exponential.dpm_solver_pp_3s import DPMSolverPP3SSampler
from diffusion.sampler.exponential.dpm_solver_v3 import DPMSolverV3Sampler, Move, State
from diffusion.sampler.exponential.dpm_v3_integrals import Integrals
from diffusion.sampler.exponential.model_statistics import ModelStatistics
from diffusion.sampler.exponential.single_step import SingleStepSampler
from diffusion.sampler.exponential.unipc import UniPCSampler

__all__ = [
    "DEISSampler",
    "DPMSolver2Sampler",
    "DPMSolver3Sampler",
    "DPMSolverFastSampler",
    "DPMSolverMSampler",
    "DPMSolverPP2MSDESampler",
    "DPMSolverPP2MSampler",
    "DPMSolverPP2SSampler",
    "DPMSolverPP3MSampler",
    "DPMSolverPP3SSampler",
    "DPMSolverV3Sampler",
    "Integrals",
    "ModelStatistics",
    "Move",
    "SingleStepSampler",
    "State",
    "UniPCSampler",
]
