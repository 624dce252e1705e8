"""The results page: figures of merit, plots and examples to listen to in one HTML file that needs
nothing else.
"""
