"""Estimate what a run costs before it starts, and compute what was billed. Pure; no network.

instance_prices   the dated table of list prices, and the GPUs of an instance type
model_size        the parameters of a recipe's model
estimate          the seconds of each step, from tokens and assumed rates; their dollars
spending          a limit in dollars as a limit in seconds, and seconds as dollars
"""
