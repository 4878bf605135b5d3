"""Export a recipe's rewards as the reward function of SageMaker's own RLVR, a Lambda.

lambda_handler   the function itself: samples in, scores out; copied as handler.py
bundle           a folder or zip with it, this package's rewards and what they import
bundle_trial     the exported folder alone must score as the recipe does
"""
