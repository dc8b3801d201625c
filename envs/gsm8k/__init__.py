"""Word problems with a worked solution of one step a line, as GSM8K has them, and tutors that know it."""

from envs.gsm8k.env import GSM8K

__all__ = ["GSM8K"]
