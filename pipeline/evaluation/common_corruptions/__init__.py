"""The 15 common corruptions of Hendrycks and Dietterich (2019), for measurements only."""
