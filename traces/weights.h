#pragma once
/// \file
/// Weights of learned policies: an HDF5 file with one group per layer, `layer_000` and so on, whose datasets carry the
/// names of the authors' state dict. Format: docs/weights.md.

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "traces/header.h"

namespace evictsim::traces {

/// The weights of one gate or scorer. Immutable; may be used from several threads.
class Weights {
 public:
  /// `location` is "file.h5", or "file.h5:/group" for weights that lie deeper. Throws Error: file_not_found,
  /// not_a_trace (not an HDF5 file), missing_data (no such group, or no layer in it; with a tensor `of_all_layers`
  /// there, which holds every layer, it needs none).
  static std::shared_ptr<const Weights> open(const std::string& location, const std::string& of_all_layers = {});
  ~Weights();

  [[nodiscard]] const std::string& location() const;
  /// Layers (indices in the model) that have weights, ascending.
  [[nodiscard]] const std::vector<int>& layers() const;
  [[nodiscard]] bool has(int layer, const std::string& name) const;
  /// A tensor of a layer, float16, bfloat16 or float32 in the file. Throws Error: missing_data (naming what the file
  /// has), invalid_value for NaN or infinity.
  [[nodiscard]] Tensor read(int layer, const std::string& name) const;
  /// The same, of that shape: throws wrong_shape otherwise; `meaning` names the extents, "[H_kv, width]".
  [[nodiscard]] Tensor read(int layer, const std::string& name, const std::vector<std::size_t>& shape,
                            const char* meaning) const;
  /// Where a layer is one tensor, a dataset layer_000 in place of a group: that tensor, of that shape, as above.
  [[nodiscard]] Tensor read_layer_dataset(int layer, const std::vector<std::size_t>& shape, const char* meaning) const;
  /// A tensor that all layers share, beside the layers' groups.
  [[nodiscard]] std::optional<Tensor> read_shared(const std::string& name) const;
  /// An attribute of the weights' group as text.
  [[nodiscard]] std::optional<std::string> attribute(const std::string& name) const;

 private:
  struct Impl;
  explicit Weights(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace evictsim::traces
