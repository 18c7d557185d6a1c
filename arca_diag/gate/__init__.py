"""The gate's parts: policy, rules, baseline, outcome. `gating.run_gate` puts them together.

Nothing in here needs a model, a table or the clock: a saved report and a policy are enough.
"""
