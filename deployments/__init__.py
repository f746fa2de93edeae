"""What is deployed: `prefect.yaml` for the Prefect deployments. A package only so that it ships in the wheel."""
