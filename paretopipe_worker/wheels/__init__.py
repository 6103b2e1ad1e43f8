"""Which wheels each host gets, how large they are, and a folder of them for labs without internet.

All of this runs on the controller: `needs` reads what the hosts are, `builds` says which build of
torch fits, `resolving` asks an index for exactly the wheels of a host, `house` keeps them in a
folder, `choosing` decides for a whole fleet and says so before anything is downloaded.
"""
