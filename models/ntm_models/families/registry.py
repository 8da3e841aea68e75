"""Which families there are, and where each one's step class is. No torch, so that recipes can be read anywhere."""

# The name in recipes and manifests, and the class that `build_step` makes.
FAMILIES: dict[str, str] = {
    "ntm": "ntm_models.ntm:NTM",
    "dnc": "ntm_models.dnc:DNC",
    "lstm": "ntm_models.lstm:StackedLSTM",
}
