#include "analysis/plan_file.h"

#include <utility>
#include <vector>

#include "analysis/run_file_output.h"

namespace evictsim::analysis {

namespace hdf5 = traces::hdf5;

struct PlanFile::Impl {
  Impl(const std::filesystem::path& path, Provenance where_from) : provenance(std::move(where_from)), file(path) {}

  Provenance provenance;
  std::vector<PlanRow> rows;
  PendingFile file;
};

PlanFile::PlanFile(const std::filesystem::path& path, Provenance provenance) {
  const hdf5::Guard guard;
  impl_ = std::make_unique<Impl>(path, std::move(provenance));
}

PlanFile::~PlanFile() {
  const hdf5::Guard guard;
  impl_.reset();
}

void PlanFile::add(const PlanRow& row) { impl_->rows.push_back(row); }

void PlanFile::seal(bool complete) {
  const hdf5::Guard guard;
  const hdf5::Node& root = impl_->file.root();
  root.set_attribute("format", std::string("evictsim-plan"));
  root.set_attribute("format_version", std::int64_t{1});
  const hdf5::Node group = root.create_group("rows");
  for (const PlanColumn& source : plan_columns()) {
    if (source.text != nullptr) {
      write_texts(group, source.name, column(impl_->rows, [&](const PlanRow& row) { return row.*source.text; }));
    } else {
      write_array(group, source.name, {impl_->rows.size()},
                  column(impl_->rows, [&](const PlanRow& row) { return row.*source.number; }));
    }
  }
  write_provenance(root, impl_->provenance, complete);
  impl_->file.seal();
}

}  // namespace evictsim::analysis
