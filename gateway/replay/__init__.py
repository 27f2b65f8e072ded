"""What-if: recorded traffic under another policy, other rates or other charges. Meters only, no provider is called."""
