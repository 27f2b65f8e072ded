"""The wire formats that clients speak beside OpenAI's chat completions, one module each, translated at the door.

The OpenAI JSON body is the language of the house: a surface turns its own requests into chat bodies, and chat
answers into its own. PURE: no Django, network, clock or dice. What a chat body cannot say is refused with
`unsupported_parameter`, never dropped in silence (docs/surfaces.md has the table).
"""
