#pragma once
/// \file
/// Random weights of small networks, written as docs/weights.md says and kept for plain loops to check against.

#include <hdf5.h>

#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace evictsim::tests {

/// A tensor as written, row-major.
struct WeightTensor {
  std::vector<std::size_t> shape;
  std::vector<float> values;
  [[nodiscard]] double at(std::initializer_list<std::size_t> index) const {
    std::size_t place = 0;
    std::size_t axis = 0;
    for (const std::size_t i : index) place = place * shape[axis++] + i;
    return values[place];
  }
};

/// Writes groups of one file; the file is complete when the object is gone.
class WeightsFile {
 public:
  explicit WeightsFile(const std::string& path, unsigned seed = 11)
      : file_(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT)), generator_(seed) {
    if (file_ < 0) throw std::runtime_error("cannot write " + path);
  }
  ~WeightsFile() { H5Fclose(file_); }
  WeightsFile(const WeightsFile&) = delete;
  WeightsFile& operator=(const WeightsFile&) = delete;

  /// Normal values times `spread`, plus `mean`.
  WeightTensor random(const std::string& name, const std::vector<std::size_t>& shape, float spread = 0.3F,
                      float mean = 0.0F) {
    std::normal_distribution<float> normal;
    WeightTensor tensor{shape, {}};
    std::size_t size = 1;
    for (const std::size_t extent : shape) size *= extent;
    for (std::size_t i = 0; i < size; ++i) tensor.values.push_back(mean + spread * normal(generator_));
    write(name, tensor);
    return tensor;
  }
  void write(const std::string& name, const WeightTensor& tensor) {
    const std::vector<hsize_t> extents(tensor.shape.begin(), tensor.shape.end());
    const hid_t space = H5Screate_simple(static_cast<int>(extents.size()), extents.data(), nullptr);
    const hid_t links = H5Pcreate(H5P_LINK_CREATE);
    H5Pset_create_intermediate_group(links, 1);
    const hid_t dataset = H5Dcreate2(file_, name.c_str(), H5T_IEEE_F32LE, space, links, H5P_DEFAULT, H5P_DEFAULT);
    H5Dwrite(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, tensor.values.data());
    H5Dclose(dataset);
    H5Pclose(links);
    H5Sclose(space);
  }
  void attribute(const std::string& group, const std::string& name, const std::string& value) {
    const hid_t object = H5Gopen2(file_, group.c_str(), H5P_DEFAULT);
    const hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, value.size());
    const hid_t space = H5Screate(H5S_SCALAR);
    const hid_t attribute = H5Acreate2(object, name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT);
    H5Awrite(attribute, type, value.data());
    H5Aclose(attribute);
    H5Sclose(space);
    H5Tclose(type);
    H5Gclose(object);
  }

 private:
  hid_t file_;
  std::mt19937 generator_;
};

}  // namespace evictsim::tests
