"""Quality of the maps: do they show what the network depends on?"""
