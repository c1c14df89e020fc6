"""lensbench: how much are better captions worth, in data, in parameters and in compute?"""
