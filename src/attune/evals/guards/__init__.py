"""The guards: what was recorded of a run goes in, alarms with a figure, a threshold and a remedy come out."""
