"""Solve a problem, learn from it, and answer a similar one with the memory.

Run it with `python examples/quickstart.py`.
"""

from latentmem import Engine, Problem, Settings

problem = Problem(
    "A taxi charges $5 to start and $2 for every mile. Dmitri's ride costs $37. How many miles "
    "was it?"
)
neighbour = Problem(
    "A plumber asks 30 euros for coming and 45 euros for each hour of work. The bill is 345 euros. "
    "How many hours did the plumber work?"
)

engine = Engine(Settings(seed=1))
*_, vote = engine.think(problem)
print(f"The model's vote: {vote.label} ({vote.majority_ratio:.0%} of {vote.total} traces)")
*_, distilled = engine.distil(problem)
print(f"Memory {distilled.memory.id} is learnt." if distilled.memory else distilled.reason)
*_, receipt = engine.answer(neighbour)
print(receipt.sentence())
