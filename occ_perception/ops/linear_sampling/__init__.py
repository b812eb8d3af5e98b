"""Linear sampling: values between grid nodes, for tables with the channels last."""
