"""Training jobs on SageMaker.

sagemaker_settings   the settings: machines, role, limits, network
instance_types       the GPUs of an instance type
training_request     a job as a request to CreateTrainingJob
"""
