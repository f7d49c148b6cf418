"""The method, as the paper tells it: rollouts, voting, GRPO, distillation, retrieval, routing."""
