#pragma once
/// \file
/// Reads any HDF5 file for tests: a second, independent reader beside the one in traces/.

#include <cstddef>
#include <map>
#include <string>
#include <vector>

namespace evictsim::test {

/// One dataset as double, with its shape.
struct H5Array {
  std::vector<std::size_t> shape;
  std::vector<double> values;
};

class H5File {
 public:
  explicit H5File(const std::string& path);
  ~H5File();
  H5File(const H5File&) = delete;
  H5File& operator=(const H5File&) = delete;

  [[nodiscard]] bool has(const std::string& path) const;
  /// Names in a group, sorted.
  [[nodiscard]] std::vector<std::string> children(const std::string& group) const;
  /// Attributes of a group as text: strings as they are, booleans "True"/"False", integers and floats as numbers.
  [[nodiscard]] std::map<std::string, std::string> attributes(const std::string& group) const;
  [[nodiscard]] H5Array read(const std::string& dataset) const;

 private:
  long file_;
};

}  // namespace evictsim::test
