# Tests of traces/, included by CMakeLists.txt of this folder.
evictsim_add_test(NAME traces_h5py LABELS python SOURCES traces_h5py_test.cpp LIBS evictsim::traces hdf5::hdf5)
