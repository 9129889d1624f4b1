#pragma once
/// \file
/// Thin RAII over the HDF5 C API. Internal: only traces/ and the run-file writer include it.

// The 1.10 names keep their meaning under every later HDF5.
#ifndef H5_USE_110_API
#define H5_USE_110_API 1
#endif
#include <hdf5.h>

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "traces/error.h"
#include "traces/header.h"

namespace evictsim::traces::hdf5 {

/// Holds the one lock around HDF5 and silences its error printing meanwhile. Reentrant within a thread.
class Guard {
 public:
  Guard();
  ~Guard();
  Guard(const Guard&) = delete;
  Guard& operator=(const Guard&) = delete;
  /// To be called first in a child that was forked while this thread held a Guard.
  static void reset_after_fork();

 private:
  std::unique_lock<std::recursive_mutex> lock_;
  H5E_auto2_t function_ = nullptr;
  void* data_ = nullptr;
};

/// Owns one HDF5 identifier of any kind.
class Handle {
 public:
  Handle() = default;
  explicit Handle(hid_t id) : id_(id) {}
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, H5I_INVALID_HID)) {}
  Handle& operator=(Handle&& other) noexcept {
    if (this != &other) {
      reset();
      id_ = std::exchange(other.id_, H5I_INVALID_HID);
    }
    return *this;
  }
  ~Handle() { reset(); }
  [[nodiscard]] hid_t get() const { return id_; }
  [[nodiscard]] bool valid() const { return id_ >= 0; }
  void reset();

 private:
  hid_t id_ = H5I_INVALID_HID;
};

/// The file type of a tensor: IEEE half, bfloat16 (1, 8, 7 bits; bias 127) or float32, little-endian.
Handle tensor_type(TensorType type);
std::size_t element_size(TensorType type);

/// Where a link leads that leaves its file.
struct ExternalLink {
  std::string file;    ///< as it is written in the link
  std::string object;  ///< path in that file
};

/// A group or dataset of an open file, with its name for messages. Every member expects a Guard to be held.
class Node {
 public:
  /// Opens a file for reading. Throws not_a_trace for anything that HDF5 refuses.
  static Node open_file(const std::string& path, std::uint64_t file_size);
  /// Creates a file, replacing one of that name. `shown` is the name used in messages. What is at least `alignment`
  /// bytes large begins at a multiple of it.
  static Node create_file(const std::string& path, const std::string& shown, std::size_t alignment = 1);

  Node() = default;
  [[nodiscard]] hid_t id() const { return handle_.get(); }
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] const std::string& file() const { return file_; }
  void close() { handle_.reset(); }

  [[nodiscard]] Error error(ErrorCode code, const std::string& message, const std::string& value = {}) const;
  [[nodiscard]] Error attribute_error(std::string_view name, ErrorCode code, const std::string& message,
                                      const std::string& value = {}) const;

  // Groups.
  [[nodiscard]] bool has(const std::string& name) const;
  [[nodiscard]] std::vector<std::string> names() const;
  [[nodiscard]] bool has_group(const std::string& name) const;
  [[nodiscard]] Node group(const std::string& name) const;
  [[nodiscard]] Node dataset(const std::string& name) const;
  [[nodiscard]] Node create_group(const std::string& name) const;
  /// Where a child is a link to another file: where to. Links are never followed by the members above.
  [[nodiscard]] std::optional<ExternalLink> external_link(const std::string& name) const;
  void link(const std::string& name, const ExternalLink& target) const;
  /// Unlinks a child and what is below it; none of it may be open.
  void remove(const std::string& name) const;
  /// Creates a dataset of `shape`; with `chunk` not empty the first axis can grow. `compress`: shuffle + deflate 1.
  [[nodiscard]] Node create_dataset(const std::string& name, hid_t type, const std::vector<std::size_t>& shape,
                                    const std::vector<std::size_t>& chunk = {}, bool compress = false) const;
  /// Creates and fills a small dataset.
  void write_integers(const std::string& name, const std::vector<std::size_t>& shape,
                      const std::vector<std::int32_t>& values) const;
  void write_reals(const std::string& name, const std::vector<double>& values) const;

  // Attributes: scalars; integers and floats of any width, strings of fixed or variable length.
  [[nodiscard]] bool has_attribute(const std::string& name) const;
  [[nodiscard]] std::vector<std::string> attribute_names() const;
  [[nodiscard]] std::int64_t integer_attribute(const std::string& name) const;
  [[nodiscard]] double real_attribute(const std::string& name) const;
  [[nodiscard]] std::string text_attribute(const std::string& name) const;
  /// Any scalar number or string, as text; empty for other kinds.
  [[nodiscard]] std::string attribute_as_text(const std::string& name) const;
  void set_attribute(const std::string& name, std::int64_t value) const;
  void set_attribute(const std::string& name, double value) const;
  void set_attribute(const std::string& name, const std::string& value) const;

  // Datasets.
  [[nodiscard]] std::vector<std::size_t> shape() const;
  /// Throws wrong_shape unless the extents are `expected`; `meaning` names them, for example "[T, Hkv, d]".
  void require_shape(const std::vector<std::size_t>& expected, const char* meaning) const;
  /// Throws wrong_type when the dataset is none of the three.
  [[nodiscard]] TensorType tensor_type() const;
  /// Raw rows of a dataset [first, first + count) of the first axis in the stored type. `shape` is this dataset's. For
  /// datasets without chunks: traces/stored_rows.h reads any.
  void read_rows(const std::vector<std::size_t>& shape, std::size_t first, std::size_t count, void* buffer) const;
  void write_rows(const std::vector<std::size_t>& shape, std::size_t first, std::size_t count,
                  const void* buffer) const;
  void resize(const std::vector<std::size_t>& shape) const;

 private:
  Node(Handle handle, std::string file, std::string path, std::uint64_t file_size)
      : handle_(std::move(handle)), file_(std::move(file)), path_(std::move(path)), file_size_(file_size) {}
  [[nodiscard]] std::string child_path(const std::string& name) const;
  void require_hard_link(const std::string& name) const;
  void require_plausible_storage() const;
  [[nodiscard]] Handle open_attribute(const std::string& name) const;
  void write_attribute(const std::string& name, hid_t type, const void* value) const;

  Handle handle_;
  std::string file_;  ///< name of the file, for messages
  std::string path_;  ///< "/sequences/000000"
  std::uint64_t file_size_ = 0;
};

}  // namespace evictsim::traces::hdf5
