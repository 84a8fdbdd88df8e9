"""Where a call goes and what its outcome means: `plan` and `verdict` are pure, `health` is their small memory."""
