"""Training jobs on SageMaker, on boto3 alone.

sagemaker_settings   the settings: machines, role, limits, network
instance_types       the GPUs of an instance type
training_request     a job as a request to CreateTrainingJob
sagemaker_backend    render, submit, follow and stop a job
job_following        follow a job until it ends: transitions, log lines, events
cloudwatch_lines     the log lines of all hosts
job_state            status and cause, from DescribeTrainingJob
sagemaker_jobs       create, find, stop and delete jobs
aws_api              requests to AWS, with patience and renewed credentials
aws_errors           what boto3 raises as errors of ours
"""
